import { defineConfig } from "vite";

// The backend that makes sessions: here the one of examples/page.
export default defineConfig({ server: { proxy: { "/token": "http://127.0.0.1:3000" } } });
