"""Publishing a captioner: to a model repository on the Hub, to a Space, or as ONNX."""
