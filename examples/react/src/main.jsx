import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { handover, useMessages, useStatus } from "./handover.js";

function Notes() {
  const [notes, setNotes] = useState([]);
  const { state } = useStatus();
  useMessages("note", (message) => setNotes((before) => [...before, message]));
  const send = (form) => handover.send(form.get("to"), "note", { text: form.get("text") });
  return (
    <>
      <p id="status">{state}</p>
      <form action={send}>
        <input name="to" placeholder="to whom" /> <input name="text" placeholder="what" /> <button type="submit">Send</button>
      </form>
      <ul>
        {notes.map(({ id, from, data }) => (
          <li key={id}>
            {from}: {data.text}
          </li>
        ))}
      </ul>
    </>
  );
}

createRoot(document.querySelector("#root")).render(
  <StrictMode>
    <Notes />
  </StrictMode>,
);
