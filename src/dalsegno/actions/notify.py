"""Tell people how a run ended: by mail through the machine's sendmail or an SMTP server, and by a webhook."""

import json
import os
import shutil
import smtplib
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any

from dalsegno.backup.policy import Notify
from dalsegno.terms.errors import DalError, NotFound, Unavailable
from dalsegno.world.programs import environment_of_programs

TIMEOUT_SECONDS = 60
SENDMAIL_PLACES = "/usr/sbin:/usr/lib:/sbin"


def is_wanted(notify: Notify, *, failed: bool) -> bool:
    """Tell whether anybody is to be told."""
    return notify.when == "always" or (notify.when == "failure" and failed)


def send(notify: Notify, *, subject: str, lines: list[str], value: Mapping[str, Any]) -> list[str]:
    """Send what the policy asks for; return what went wrong, one line each. Every way is tried."""
    problems = []
    if notify.mail_to:
        try:
            _mail(notify, subject, lines)
        except DalError as error:
            problems.append(str(error))
    if notify.webhook:
        try:
            _post(notify.webhook, {"subject": subject, "text": "\n".join(lines), "report": value})
        except DalError as error:
            problems.append(str(error))
    return problems


def find_sendmail() -> str | None:
    """Return the machine's mail program, or None where there is none."""
    return shutil.which("sendmail", path=f"{os.environ.get('PATH', '')}:{SENDMAIL_PLACES}")


def _mail(notify: Notify, subject: str, lines: list[str]) -> None:
    message = EmailMessage()
    message["Subject"] = subject
    message["From"] = notify.mail_from or f"dal@{socket.gethostname()}"
    message["To"] = ", ".join(notify.mail_to)
    message.set_content("\n".join(lines) + "\n")
    if notify.smtp:
        host, _, port = notify.smtp.partition(":")
        try:
            with smtplib.SMTP(host, int(port or 25), timeout=TIMEOUT_SECONDS) as server:
                server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            raise Unavailable(f"mail through {notify.smtp}: {error}") from None
        return
    program = find_sendmail()
    if program is None:
        raise NotFound('mail: no sendmail on this machine: install a mail program, or write smtp = "HOST"')
    try:
        done = subprocess.run(
            [program, "-t", "-oi"],
            input=message.as_bytes(),
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            env=environment_of_programs(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"mail through {program}: {error}") from None
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()
        raise Unavailable(f"mail through {program}: exit code {done.returncode}: {words}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Goes nowhere but where the policy says: another server does not choose what this machine asks."""

    def redirect_request(self, *words: Any, **named: Any) -> None:
        """Follow no redirect: it becomes an error."""
        return


def _post(url: str, value: Mapping[str, Any]) -> None:
    request = urllib.request.Request(
        url, data=json.dumps(value).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        where = error.headers.get("Location", "") if 300 <= error.code < 400 else ""
        more = (
            f": it leads to {where!r}, which is not followed: write that into the policy if it is right"
            if where
            else ""
        )
        raise Unavailable(f"webhook {url}: {error}{more}") from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Unavailable(f"webhook {url}: {error}") from None
