"""The application for an ASGI server: ``uvicorn main:app --reload`` in this folder."""

from read_write_split.app import create_app

app = create_app()
