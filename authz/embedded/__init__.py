"""The folder that comes first on the path of the interpreter inside Envoy; see `sitecustomize`."""
