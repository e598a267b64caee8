/**
 * The suites that prove an engine or a server: run them on yours.
 * @module
 */
export { type EngineLimits, type EngineSuiteOptions, type EngineUnderTest, engineSuite } from "./engine-suite.ts";
export { LONG_POLLING, SSE, type Target, type TransportSuite, transportSuite, WEBSOCKET, type Wire } from "./transport-suite.ts";
