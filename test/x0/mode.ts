/**
 * The two ways in which x0's pages have session values.
 * @module
 */
import { expect } from "vitest";
import { call, field } from "../../src/testing/wire.ts";
import { SERVICE_CREDENTIAL } from "../support/started.ts";

/** The session values of users' pages, one way or the other. */
export interface Mode {
  readonly name: string;
  readonly x0: "demo" | "registered";
  /** Whether nothing is shown twice but what the page was working on when it was left. */
  readonly isExact: boolean;
  session(user: string, server: string): Promise<string>;
  /** What addresses a user. */
  address(user: string): string;
}

export const FIXED: Mode = {
  name: "with fixed session values",
  x0: "demo",
  isExact: false,
  session: async (user) => `sess-${user}`,
  address: (user) => `sess-${user}`,
};

export const PER_LOAD: Mode = {
  name: "with a token for each load of it",
  x0: "registered",
  isExact: true,
  // What PreloadAuthentication does.
  async session(user, server) {
    const { status, body } = await call(`${server}/v1/sessions`, {
      token: SERVICE_CREDENTIAL,
      body: { user, scope: "receive send:user:* x0:page-load" },
    });
    expect(status).toBe(201);
    return String(field(body, "token"));
  },
  address: (user) => user,
};
