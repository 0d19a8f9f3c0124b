"""The process that decodes photos."""

from app.infra.media.photo import make_photo
from app.infra.media.process import serve

if __name__ == "__main__":
    # Somebody waits for each; the loop of the server comes first all the same.
    serve(make_photo, niceness=2)
