"""``uvicorn main:app --reload`` in this folder runs the service on port 8000."""

from consistent_hashing.service import create_app

app = create_app()
