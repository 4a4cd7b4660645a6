"""Training of the bundled base model from nothing: ``python -m lorica.demo.base`` (``make base``)."""
