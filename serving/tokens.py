"""Tokens of an issuer: JSON Web Tokens (RFC 7519), signed by its keys, for this API.

Nothing that a token says is believed before its signature was checked, but for which key it names. The algorithm is
that of the key, so a token cannot choose one.
"""

from __future__ import annotations

from typing import Any

import jwt
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAlgorithmError,
    InvalidAudienceError,
    InvalidIssuedAtError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)
from limits import RateLimitItem

from .caller import Caller, granted
from .jwks import Jwks
from .problems import Problem, no_issuer, unauthorized

LEEWAY = 10.0  # seconds by which the clocks of issuer and API may differ
_CHARACTERS = 8_192  # of a token
_CLAIMS = ["iss", "aud", "exp", "sub"]
_WHY: tuple[tuple[type[PyJWTError], str], ...] = (
    (ExpiredSignatureError, "the token has expired"),
    (ImmatureSignatureError, "the token is not good yet"),
    (InvalidIssuedAtError, "the token is of the future"),
    (InvalidAudienceError, "the token is for somebody else"),
    (InvalidIssuerError, "the token is of another issuer"),
    (InvalidAlgorithmError, "the token is signed in another way than its key is for"),
    (InvalidSignatureError, "the signature of the token is wrong"),
    (MissingRequiredClaimError, f"the token lacks one of {', '.join(_CLAIMS)}"),
)


class Tokens:
    """Knows callers by the tokens of one issuer.

    Args:
        jwks: the keys of the issuer.
        issuer: what a token must have as `iss`.
        audience: what must be in its `aud`.
        rate: requests that each subject may make in a time, None without a bound.
    """

    def __init__(self, jwks: Jwks, issuer: str, audience: str, rate: RateLimitItem | None = None) -> None:
        self.jwks = jwks
        self._issuer, self._audience, self._rate = issuer, audience, rate

    async def caller(self, shown: bytes) -> Caller | Problem:
        """Returns who has shown a token, or why it is refused."""
        try:
            ident = jwt.get_unverified_header(shown).get("kid") if len(shown) <= _CHARACTERS else None
        except PyJWTError:
            ident = None
        if not isinstance(ident, str):
            return unauthorized("invalid_token", "this is no token that names its key")
        key = await self.jwks.key(ident)
        if key is None:
            if not self.jwks.there:
                return no_issuer()
            return unauthorized("invalid_token", "the issuer has no such key")
        try:
            claims = jwt.decode(
                shown,
                key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": _CLAIMS},
            )
        except PyJWTError as error:
            why = next((why for kind, why in _WHY if isinstance(error, kind)), "the token is not usable")
            return unauthorized("invalid_token", why)
        return Caller(f"token of {claims['sub']}", granted(scopes_of(claims)), self._rate)


def scopes_of(claims: dict[str, Any]) -> list[str]:
    """Returns the scopes of a token: `scope`, words between spaces (RFC 8693), else `scp`, such words or a list."""
    said = claims.get("scope", claims.get("scp"))
    if isinstance(said, str):
        return said.split()
    return [one for one in said if isinstance(one, str)] if isinstance(said, list) else []
