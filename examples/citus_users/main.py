"""The application for an ASGI server: ``uvicorn main:app --reload`` in this folder."""

from citus_users.app import create_app

app = create_app()
