"""Links to videos that stay valid: those of the gallery, unlike presigned ones."""

from tasks.settings import AvatarSettings


def player_url(settings: AvatarSettings, job_id: str) -> str | None:
    """The page on which a job's video plays; None unless AVATAR_GALLERY__PUBLIC_URL says where the gallery is."""
    base = settings.gallery.public_url
    return f"{str(base).rstrip('/')}/videos/{job_id}" if base else None
