"""serve: the Open Inference Protocol over gRPC. It needs the extra `grpc`."""
