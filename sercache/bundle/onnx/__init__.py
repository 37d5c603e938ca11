"""Networks as ONNX files that other programs run, each compared with torch before it is written."""
