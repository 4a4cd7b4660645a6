"""How the bundled base model is made from nothing: ``python -m lorica.demo.base`` (``make base``)."""
