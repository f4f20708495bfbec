"""What Locust needs for the same work: users who get one page again and again, with its quick client."""

from __future__ import annotations

from locust import FastHttpUser, task


class Visitor(FastHttpUser):
    @task
    def visit(self) -> None:
        self.client.get("/index.html")
