/** @module */
import { SSE } from "../../src/testing/transport-suite.ts";
import { suiteOn } from "./target.ts";

suiteOn("memory", SSE);
suiteOn("sqlite", SSE);
