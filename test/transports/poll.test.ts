/** @module */
import { LONG_POLLING } from "../../src/testing/transport-suite.ts";
import { suiteOn } from "./target.ts";

suiteOn("memory", LONG_POLLING);
suiteOn("sqlite", LONG_POLLING);
