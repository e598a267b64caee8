"""What x0's PreloadAuthentication does for Handover: a session for each load of a page. Python's standard library only.

The application knows who is asking (its own login); Handover is told with the service key, which never reaches a browser. The token that comes
back is what x0's pages carry as `user_session`. It is made anew for each load of a page, and says so (scope `x0:page-load`): then the page's next
poll acknowledges what it was given, exactly, and a page that is loaded again gets what was not.

The answer that carries the token must not be kept by anybody: send it with `Cache-Control: no-store`.
"""

import json
import os
import urllib.error
import urllib.request

SERVER = os.environ.get("HANDOVER_URL", "http://127.0.0.1:8080")
SERVICE_KEY = os.environ["HANDOVER_SERVICE_KEY"]

# What pages may do: read their user's mail, send form values to any user. Add `x0:any` for those that may send every kind of x0's messages.
SCOPE = "receive send:user:* x0:page-load"


def user_session(user, seconds=12 * 3600):
    """The `user_session` of one load of a page. `user` is the application's own id; `seconds` how long the page may stay open."""
    request = urllib.request.Request(
        SERVER + "/v1/sessions",
        data=json.dumps({"user": user, "ttl": seconds, "scope": SCOPE}).encode(),
        headers={"Authorization": "Bearer " + SERVICE_KEY, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.load(response)["token"]
    except urllib.error.HTTPError as error:
        problem = json.load(error)
        raise RuntimeError("Handover made no session: " + problem["detail"]) from error


def preload_authentication(user):
    """What the application gives its page: who it is, and whom it may address. Users, not sessions: nobody learns another's session."""
    return {"user_id": user, "user_session": user_session(user), "destinations": ["user1", "user2", "user3"]}


if __name__ == "__main__":
    import sys

    print(json.dumps(preload_authentication(sys.argv[1])))
