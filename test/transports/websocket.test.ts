/** @module */
import { WEBSOCKET } from "../../src/testing/transport-suite.ts";
import { suiteOn } from "./target.ts";

suiteOn("memory", WEBSOCKET);
suiteOn("sqlite", WEBSOCKET);
