"""Draw the pictures of docs/concepts.md, docs/architecture.md and docs/deployment.md.

    python docs/tools/draw_concepts.py

writes them into docs/pictures. A test compares what lies there with what this program draws.
"""

from collections.abc import Callable
from pathlib import Path

from drawing import COLOURS, Drawing

FOLDER = Path(__file__).resolve().parents[1] / "pictures"


def clients() -> Drawing:
    """Who holds what, with much and with little skew."""
    drawing = Drawing("clients", 520, 200)
    skewed = ([0] * 8, [1, 1, 1, 1, 1, 2], [2, 2, 2], [3, 3, 3, 3, 3, 3, 3, 0, 0])
    alike = ([0, 0, 1, 2, 2, 3, 3], [0, 1, 1, 1, 2, 3], [0, 0, 1, 2, 3, 3], [0, 1, 2, 2, 3, 3, 3])
    for row, (words, parts) in enumerate((("alpha 0.05", skewed), ("alpha 1", alike))):
        top = 28 + 88 * row
        drawing.text(4, top + 34, words, "strong", anchor="start")
        for number, held in enumerate(parts):
            left = 96 + 106 * number
            drawing.box(left, top, 96, 64)
            drawing.images(left + 11, top + 10, held, 5)
            if row == 0:
                drawing.text(left + 48, 18, f"client {number}")
    return drawing


def generators() -> Drawing:
    """What a client learns from its images, and what leaves it."""
    drawing = Drawing("generators", 520, 190)
    drawing.box(8, 30, 250, 120)
    drawing.text(133, 20, "client")
    drawing.images(28, 60, [0, 0, 0, 1, 0, 0, 1, 1, 0], 3)
    drawing.text(48, 124, "images stay", "small")
    drawing.arrow((80, 82), (124, 82))
    drawing.box(128, 50, 118, 64, ["generator", "a mean and a", "spread per class"], COLOURS[0])
    drawing.text(187, 136, "label counts 6, 3, 0, 0", "small")
    drawing.line([(290, 8), (290, 160)], dashed=True)
    drawing.text(290, 180, "goes up once", "small")
    drawing.arrow((248, 82), (330, 82))
    drawing.box(334, 30, 178, 120)
    drawing.text(423, 20, "server")
    drawing.images(350, 48, [0, 1, 0, 2, 3, 3, 2, 0, 1, 1, 3, 2, 0, 2, 3, 1, 0, 1, 2, 3], 10, made=True)
    drawing.text(423, 104, "as many images as it likes,", "small")
    drawing.text(423, 122, "none of which anybody had", "small")
    return drawing


def experts() -> Drawing:
    """Client models as experts, or one average for each class."""
    drawing = Drawing("experts", 520, 230)
    shares = ((0.9, 0.1, 0.0), (0.3, 0.0, 0.7), (0.0, 1.0, 0.0), (0.1, 0.2, 0.7))
    drawing.text(110, 18, "clients", "strong")
    for number, held in enumerate(([0, 0, 0, 1], [2, 2, 3, 0], [3, 3, 1, 1])):
        top = 32 + 62 * number
        drawing.box(8, top, 84, 48, [f"model {number}"])
        drawing.arrow((94, top + 24), (126, top + 24))
        drawing.box(130, top, 92, 48, [f"expert {number}"], COLOURS[held[0]])
    drawing.line([(248, 8), (248, 222)], dashed=True)
    drawing.text(390, 18, "class_average", "strong")
    for number in range(3):
        drawing.text(306 + 36 * number, 44, str(number), "small")
    for of, row in enumerate(shares):
        top = 56 + 40 * of
        drawing.text(274, top + 20, f"{'abcd'[of]}", "strong")
        for number, share in enumerate(row):
            size = 4 + 24 * share
            drawing.image(306 + 36 * number - size / 2, top + 16 - size / 2, of, size=size)
        drawing.arrow((400, top + 16), (424, top + 16))
        drawing.box(428, top, 84, 32, [f"expert {'abcd'[of]}"], COLOURS[of])
    drawing.text(262, 222, "weight: share of the class's images", "small", anchor="start")
    return drawing


def gate() -> Drawing:
    """Experts answer; the gate knows who knows what."""
    drawing = Drawing("gate", 520, 244)
    drawing.image(16, 100, 1, size=30, made=True)
    drawing.text(31, 150, "an image", "small")
    answers: tuple[list[float | None], ...] = ([0.9, 0.25, None, None], [None, 0.8, 0.3, None], [0.2, None, None, 0.6])
    for number, answer in enumerate(answers):
        top = 12 + 74 * number
        drawing.arrow((54, 115), (92, top + 30))
        drawing.box(96, top, 84, 60, [f"expert {number}"])
        drawing.bars(194, top + 52, answer)
        drawing.arrow((250, top + 30), (298, 106 + 9 * number))
    drawing.text(216, 239, "dotted: a class it never saw", "small")
    drawing.box(302, 78, 100, 74, ["gate", "who knows", "which classes"], COLOURS[3])
    drawing.arrow((404, 115), (436, 115))
    drawing.bars(446, 138, [0.2, 0.95, 0.1, 0.05])
    drawing.text(470, 162, "one opinion", "small")
    return drawing


def distillation() -> Drawing:
    """Generated images, a teacher who labels them, a student who learns."""
    drawing = Drawing("distillation", 520, 214)
    drawing.box(8, 70, 104, 60, ["generators", "of all clients"], COLOURS[0])
    drawing.arrow((114, 100), (146, 100))
    drawing.images(150, 72, [0, 2, 1, 3, 3, 1, 0, 2], 2, made=True)
    drawing.text(164, 150, "pool", "small")
    drawing.arrow((184, 86), (222, 54))
    drawing.arrow((184, 114), (222, 152))
    drawing.box(226, 20, 104, 60, ["teacher", "experts + gate"], COLOURS[3])
    drawing.box(226, 126, 104, 60, ["student", "starts as average"], COLOURS[1])
    drawing.bars(346, 68, [0.1, 0.9, 0.2, 0.05])
    drawing.bars(346, 174, [0.3, 0.6, 0.35, 0.2])
    drawing.arrow((400, 52), (426, 88))
    drawing.arrow((400, 156), (426, 122))
    drawing.box(418, 84, 94, 42, ["difference"])
    drawing.arrow((465, 128), (465, 202), (278, 202), (278, 190))
    drawing.text(372, 196, "learns", "small")
    drawing.arrow((60, 66), (60, 10), (278, 10), (278, 17), dashed=True)
    drawing.text(66, 26, "origin: what it was asked for", "small", anchor="start")
    return drawing


def acceptance() -> Drawing:
    """The clients' validation images choose between average and student."""
    drawing = Drawing("acceptance", 520, 190)
    drawing.box(8, 26, 92, 44, ["average"])
    drawing.box(8, 112, 92, 44, ["student"], COLOURS[1])
    for number, counts in enumerate(("17 of 20 / 19", "4 of 6 / 5", "9 of 11 / 11")):
        top = 10 + 58 * number
        drawing.arrow((102, 48), (156, top + 18))
        drawing.arrow((102, 134), (156, top + 30))
        drawing.box(160, top, 150, 48, [f"client {number}", counts])
        drawing.arrow((312, top + 24), (362, 76 + 8 * number))
    drawing.box(366, 54, 146, 60, ["30 / 35 right", "the student goes on"], COLOURS[1])
    drawing.text(438, 134, "fewer: it is refused,", "small")
    drawing.text(438, 150, "and the average goes on", "small")
    return drawing


def rooms() -> Drawing:
    """The rooms of the package; arrows point at what is imported."""
    drawing = Drawing("rooms", 520, 420)
    drawing.box(8, 8, 504, 40, ["api, cli, comparison, report, audit, deployment"])
    drawing.text(260, 62, "what users touch: Python, commands, many runs, pages, attacks, sites", "small")
    drawing.arrow((260, 68), (260, 84))
    drawing.box(8, 88, 504, 52, ["federation, runs, executors", "the loop, what lies on disk, who carries messages"])
    drawing.arrow((130, 142), (130, 168))
    drawing.arrow((390, 142), (390, 168))
    drawing.box(8, 172, 244, 52, ["algorithms", "one round each"], COLOURS[3])
    drawing.box(268, 172, 244, 52, ["client, data", "the only code that reads images"], COLOURS[0])
    drawing.line([(260, 166), (260, 306)], dashed=True)
    drawing.arrow((130, 226), (130, 250))
    drawing.arrow((390, 226), (390, 250))
    drawing.box(8, 254, 244, 52, ["teachers, server", "experts, gate, distillation"], COLOURS[3])
    drawing.box(268, 254, 244, 52, ["generation, client", "generators, prototypes, objectives"], COLOURS[0])
    drawing.arrow((130, 308), (130, 332))
    drawing.arrow((390, 308), (390, 332))
    low = ["tasks, training, losses, nets, privacy, messages", "phases, formulas, networks, budgets, what crosses"]
    drawing.box(8, 336, 504, 52, low)
    drawing.text(260, 410, "broken line: the server's side cannot reach data, not even through other modules", "small")
    return drawing


def round_of_mosaic() -> Drawing:
    """The messages of one round, in their order."""
    steps: tuple[tuple[str, str, str], ...] = (
        ("TrainRequest", "TrainReply", "averages, keeps what experts need"),
        ("GeneratorRequest, once", "GeneratorReply", "mixes generators, forms experts"),
        ("PrototypeRequest, if needed", "PrototypeReply", "forms the teacher, trains the student"),
        ("EvaluateRequest", "EvaluateReply", "student or average goes on"),
    )
    drawing = Drawing("round_of_mosaic", 520, 410)
    drawing.box(20, 8, 110, 32, ["server"], COLOURS[3])
    drawing.box(390, 8, 110, 32, ["each client"], COLOURS[0])
    drawing.line([(75, 42), (75, 402)], dashed=True)
    drawing.line([(445, 42), (445, 402)], dashed=True)
    for number, (asked, replied, then) in enumerate(steps):
        top = 66 + 88 * number
        drawing.text(260, top - 4, asked)
        drawing.arrow((78, top + 2), (441, top + 2))
        drawing.text(260, top + 24, replied)
        drawing.arrow((442, top + 30), (79, top + 30))
        drawing.text(86, top + 52, then, "small", anchor="start")
    return drawing


def parties() -> Drawing:
    """The processes of a real federation."""
    drawing = Drawing("parties", 520, 250)
    drawing.box(8, 28, 236, 200, tint=COLOURS[0])
    drawing.text(126, 18, "each site", "strong")
    drawing.box(20, 42, 90, 50, ["images"])
    drawing.box(130, 42, 102, 50, ["mosaic client"])
    drawing.line([(112, 67), (128, 67)])
    drawing.arrow((181, 118), (181, 96))
    drawing.text(96, 110, "Unix socket", "small")
    drawing.box(130, 122, 102, 40, ["ClientApp", "a relay"])
    drawing.line([(181, 164), (181, 176)])
    drawing.box(130, 180, 102, 38, ["SuperNode"])
    drawing.box(300, 28, 212, 200, tint=COLOURS[3])
    drawing.text(406, 18, "the server", "strong")
    drawing.box(400, 42, 102, 50, ["mosaic fit"])
    drawing.arrow((451, 118), (451, 96))
    drawing.text(392, 110, "Unix socket", "small", anchor="end")
    drawing.box(400, 122, 102, 40, ["ServerApp", "a relay"])
    drawing.line([(451, 164), (451, 176)])
    drawing.box(400, 180, 102, 38, ["SuperLink"])
    drawing.box(310, 180, 70, 38, ["proxy"])
    drawing.line([(382, 199), (398, 199)])
    drawing.arrow((234, 199), (306, 199))
    drawing.text(272, 240, "TLS; the site calls", "small")
    return drawing


PICTURES: tuple[Callable[[], Drawing], ...] = (
    *(clients, generators, experts, gate, distillation, acceptance),
    *(rooms, round_of_mosaic, parties),
)


def main() -> None:
    """Write all pictures."""
    for draw in PICTURES:
        drawing = draw()
        (FOLDER / f"{drawing.name}.svg").write_text(drawing.svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
