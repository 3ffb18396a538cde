"""The WSGI entry point: ``gunicorn -c python:ticketboss.serving.gunicorn_conf wsgi:app``."""

from ticketboss import create_app

app = create_app()
