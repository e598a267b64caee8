/**
 * An identity provider for tests: its own keys, its JWKS on a free port, and every way to sign, right or wrong. Written with node:crypto, so that
 * what checks the tokens is not what made them.
 * @module
 */

import { constants, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface SigningKey {
  readonly kid: string;
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  /** As it stands in the set. */
  readonly jwk: Readonly<Record<string, unknown>>;
}

export function makeKey(kind: "RSA" | "EC" | "Ed25519" | "RSA-1024", kid: string, more: object = {}): SigningKey {
  const { publicKey, privateKey } =
    kind === "EC"
      ? generateKeyPairSync("ec", { namedCurve: "P-256" })
      : kind === "Ed25519"
        ? generateKeyPairSync("ed25519")
        : generateKeyPairSync("rsa", { modulusLength: kind === "RSA" ? 2048 : 1024 });
  return { kid, privateKey, publicKey, jwk: { ...publicKey.export({ format: "jwk" }), kid, ...more } };
}

const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** Signs with a key of the kind that `header.alg` names. @see RFC 7518, section 3; RFC 8037, section 3.1 */
export function signWith(key: SigningKey, claims: unknown, header: { readonly alg: string; readonly [name: string]: unknown }): string {
  const content = `${part(header)}.${part(claims)}`;
  return `${content}.${signature(key.privateKey, header.alg, Buffer.from(content)).toString("base64url")}`;
}

function signature(key: KeyObject, alg: string, content: Buffer): Buffer {
  if (alg === "EdDSA") return sign(null, content, key);
  const hash = `sha${alg.slice(-3)}`;
  if (alg.startsWith("ES")) return sign(hash, content, { key, dsaEncoding: "ieee-p1363" });
  if (alg.startsWith("PS")) return sign(hash, content, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 });
  return sign(hash, content, key);
}

export interface TestProvider {
  /** Of its JWKS. */
  readonly url: string;
  /** What the set holds; tests change it. */
  keys: readonly Readonly<Record<string, unknown>>[];
  /** How often it was asked. */
  readonly fetches: number;
  /** How it answers, where that is not its keys. */
  answer: ((response: ServerResponse) => void) | undefined;
  stop(): Promise<void>;
}

export async function startProvider(...keys: readonly SigningKey[]): Promise<TestProvider> {
  let fetches = 0;
  const server = createServer((_request, response) => {
    fetches += 1;
    if (provider.answer) provider.answer(response);
    else response.setHeader("Content-Type", "application/json").end(JSON.stringify({ keys: provider.keys }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const provider: TestProvider = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/keys`,
    keys: keys.map(({ jwk }) => jwk),
    get fetches() {
      return fetches;
    },
    answer: undefined,
    async stop() {
      server.close();
      server.closeAllConnections();
      if (server.listening) await once(server, "close");
    },
  };
  return provider;
}
