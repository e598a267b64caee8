import { connect } from "@handover/client";
import { useEffect, useEffectEvent, useSyncExternalStore } from "react";

/** One connection for the whole application. */
export const handover = connect(import.meta.env.VITE_HANDOVER_URL ?? "http://127.0.0.1:8080", {
  token: async () => (await fetch(`/token${location.search}`, { method: "POST" })).text(),
});

const follow = (changed) => handover.onStatus(changed);

/** How the connection is, for an indicator. */
export const useStatus = () => useSyncExternalStore(follow, () => handover.status);

/** Handles messages of a type for as long as the component is there; before and after, they wait. */
export function useMessages(type, handler) {
  const handle = useEffectEvent(handler);
  useEffect(() => handover.on(type, (message) => handle(message)), [type]);
}
