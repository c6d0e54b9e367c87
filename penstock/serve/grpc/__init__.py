"""serve: the Open Inference Protocol over gRPC."""
