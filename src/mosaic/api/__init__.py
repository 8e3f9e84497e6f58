"""The Python interface, which ``mosaic`` exports: the functions of the command line, with objects in their place."""
