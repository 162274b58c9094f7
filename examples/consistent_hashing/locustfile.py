"""A load of new users and of reads: ``locust -f locustfile.py --headless -u 10 -t 10s --host http://127.0.0.1:8000``."""

import random

from locust import HttpUser, between, task


class Client(HttpUser):
    """Creates users with ids of its own, and reads what it has created."""

    wait_time = between(0.01, 0.1)

    def on_start(self) -> None:
        self.created: list[int] = []
        self.create()

    @task(1)
    def create(self) -> None:
        # Ids of 62 random bits: no two clients, and no two runs, meet.
        user_id = random.randrange(2**61, 2**62)  # noqa: S311  no secret
        region = random.choice(["US", "EU", "APAC"])  # noqa: S311
        user = {"user_id": user_id, "name": "Locust", "region": region, "email": f"{user_id}@example.com"}
        if self.client.post("/users/", json=user).status_code == 200:
            self.created.append(user_id)

    @task(3)
    def read(self) -> None:
        if self.created:
            self.client.get(f"/users/{random.choice(self.created)}", name="/users/{user_id}")  # noqa: S311
