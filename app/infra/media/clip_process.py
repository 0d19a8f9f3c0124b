"""The process that decodes video and sound."""

from app.infra.media.clip import probe
from app.infra.media.process import serve

if __name__ == "__main__":
    serve(probe, niceness=10)
