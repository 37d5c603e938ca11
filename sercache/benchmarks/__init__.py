"""What the library costs on the machine that it runs on, as values to show or to compare."""
