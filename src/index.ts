/**
 * The public API of the server: start it inside your own process, or write an engine for it.
 * @module
 */
export { type Config, ConfigError, type ConfigSources, loadConfig } from "./config.ts";
export type * from "./engine.ts";
export { ERRORS, type ErrorCode, HandoverError, type Problem } from "./errors.ts";
export type { Epoch, Identity, MessageId, MessageRequest, Seq, SessionId, UserId } from "./protocol.ts";
export { type Server, startServer } from "./server.ts";
