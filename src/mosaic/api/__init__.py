"""The Python interface that ``mosaic`` exports: the commands as functions, which also take Python objects."""
