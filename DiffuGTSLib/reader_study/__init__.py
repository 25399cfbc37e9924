"""The visual Turing test: real and painted scans, blinded, read by people, and what their answers say."""
