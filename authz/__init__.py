"""The top of the house: where the parts meet, the server and the command lines."""
