/**
 * The keys of an identity provider, from its JWKS (RFC 7517). jose keeps and chooses them; here is what happens when the provider does
 * not answer, or when somebody would have it asked all the time.
 * @module
 */
import { createLocalJWKSet, createRemoteJWKSet, customFetch, type FetchImplementation, type JWTVerifyGetKey } from "jose";
import { HandoverError } from "./errors.ts";

/** What a provider's keys may sign with: an allow-list, with nothing symmetric in it (RFC 8725, section 3.1). */
export const PROVIDER_ALGORITHMS: readonly string[] = ["RS256", "ES256", "EdDSA"];

/** A withdrawn key is not used longer than this. */
const MAX_AGE_MS = 600_000;
/** Between two questions about keys that the last answer did not have. Whoever invents key ids causes no more than this. */
const COOLDOWN_MS = 10_000;
/** Less than the 10 seconds after which a client no longer waits for the answer to its `hello`. */
const TIMEOUT_MS = 5_000;
/** A provider that has just failed is left alone for so long, however many tokens come. */
const PAUSE_MS = 1_000;

/**
 * Finds the key that a token names among the provider's. Nothing is asked before the first token comes.
 * @param url  of the key set; redirects are not followed
 * @param onFailure  the provider gave no keys; told once for each time that it was asked
 * @returns a function that rejects with HandoverError timeout (503, retryable) when there are no keys to be had, and with jose's errors
 *   when none of them fits
 */
export function providerKeys(url: URL, onFailure: (failure: HandoverError) => void): JWTVerifyGetKey {
  let failure: HandoverError | undefined;
  let failedAtMs = 0;
  const fetchKeys: FetchImplementation = async (address, init) => {
    if (failure && performance.now() < failedAtMs + PAUSE_MS) throw failure;
    try {
      const response = await fetch(address, init);
      if (response.status !== 200) throw new Error(`It answered ${response.status}.`);
      const keys = await response.json();
      // Throws for what is no key set; only a whole answer replaces the keys that are there.
      createLocalJWKSet(keys);
      failure = undefined;
      return Response.json(keys);
    } catch (cause) {
      failure = new HandoverError("timeout", "The identity provider gave no keys to check this token with. Try again.", {
        cause,
        retryAfterMs: PAUSE_MS,
      });
      failedAtMs = performance.now();
      onFailure(failure);
      throw failure;
    }
  };
  return createRemoteJWKSet(url, { timeoutDuration: TIMEOUT_MS, cooldownDuration: COOLDOWN_MS, cacheMaxAge: MAX_AGE_MS, [customFetch]: fetchKeys });
}
