"""The bundled base model and its pictures: drawing, scoring, the quickstart."""
