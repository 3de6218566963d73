"""The month of decisions that questions to the record are measured on."""
