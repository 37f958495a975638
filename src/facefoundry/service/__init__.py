"""The recognition service: REST and a web page over one recognizer and its gallery."""
