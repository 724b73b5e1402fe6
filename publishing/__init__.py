"""From a captioner to a repository on the Hub, a Space, or ONNX."""
