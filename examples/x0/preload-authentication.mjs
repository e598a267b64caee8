// The same as preload_authentication.py, for a backend in Node: a session for each load of a page.
const { HANDOVER_URL = "http://127.0.0.1:8080", HANDOVER_SERVICE_KEY } = process.env;

/** The `user_session` of one load of a page. @param {string} user  the application's own id */
export async function userSession(user) {
  const response = await fetch(`${HANDOVER_URL}/v1/sessions`, {
    method: "POST",
    headers: { Authorization: `Bearer ${HANDOVER_SERVICE_KEY}`, "Content-Type": "application/json" },
    body: JSON.stringify({ user, ttl: 12 * 3600, scope: "receive send:user:* x0:page-load" }),
  });
  const answer = await response.json();
  if (response.status !== 201) throw new Error(`Handover made no session: ${answer.detail}`);
  return answer.token;
}
