//! Who may ask: the token, the ways to show it, and the names by which this endpoint may be called.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri};
use rand::RngExt;
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use subtle::ConstantTimeEq;

use crate::error::{Error, Result};

/// Who may ask an endpoint.
#[derive(Clone)]
pub enum Access {
    /// Whoever shows this token: letters, digits and `-._~`, at least one.
    Token(String),
    /// Everybody who reaches the port. On anything but a host of your own, that is everybody on the network.
    Open,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(…)",
            Self::Open => "Open",
        })
    }
}

/// A new token: 128 random bits from the system, as 32 hexadecimal digits.
///
/// # Panics
/// When the system has no randomness to give.
pub fn new_token() -> String {
    format!("{:032x}", UnwrapErr(SysRng).random::<u128>())
}

/// Whether the `Authorization` header carries this.
pub(super) fn bears(headers: &HeaderMap, wanted: &str) -> bool {
    !wanted.is_empty() && bearer(headers).is_some_and(|shown| shown.as_bytes().ct_eq(wanted.as_bytes()).into())
}

/// What a request showed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credential {
    /// Nothing that counts.
    Refused,
    /// The right token in a header, or none is needed.
    Granted,
    /// The right token in the URL, which is to be taken out of there.
    InUrl,
}

impl Access {
    /// Refuses a token that a header or a cookie could not carry as it is.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Token(token) if token.is_empty() => {
                Err(Error::Endpoint("the token is empty: leave it out to get a random one".into()))
            }
            Self::Token(token) if !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)) => {
                Err(Error::Endpoint("the token may have only letters, digits and \"-._~\"; this one has others".into()))
            }
            _ => Ok(()),
        }
    }

    /// The token, when one is needed.
    pub(super) fn token(&self) -> Option<&str> {
        match self {
            Self::Token(token) => Some(token),
            Self::Open => None,
        }
    }

    /// What a request to the port `port` showed. A token in the URL decides alone.
    pub(super) fn credential(&self, uri: &Uri, headers: &HeaderMap, port: u16) -> Credential {
        let Some(token) = self.token() else { return Credential::Granted };
        let right = |shown: &str| bool::from(shown.as_bytes().ct_eq(token.as_bytes()));
        let mut in_url = arguments(uri).filter(|(name, _)| name == "token").map(|(_, value)| value).peekable();
        if in_url.peek().is_some() {
            return if in_url.all(|value| right(&value)) { Credential::InUrl } else { Credential::Refused };
        }
        if bearer(headers).is_some_and(right) || cookies(headers, &cookie_name(port)).any(right) {
            return Credential::Granted;
        }
        Credential::Refused
    }

    /// The `Set-Cookie` value that spares a browser the token in its URLs.
    pub(super) fn cookie(&self, port: u16) -> String {
        let token = self.token().unwrap_or_default();
        format!("{}={token}; Path=/; HttpOnly; SameSite=Strict", cookie_name(port))
    }
}

/// The arguments of a URL, decoded, in their order.
pub(super) fn arguments(uri: &Uri) -> impl Iterator<Item = (String, String)> + '_ {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned()
}

/// The same URL on this endpoint, without the token.
pub(super) fn without_token(uri: &Uri) -> String {
    let mut rest = form_urlencoded::Serializer::new(String::new());
    rest.extend_pairs(arguments(uri).filter(|(name, _)| name != "token"));
    let rest = rest.finish();
    // "//elsewhere/" would lead to another host.
    let path = uri.path().trim_start_matches(['/', '\\']);
    if rest.is_empty() { format!("/{path}") } else { format!("/{path}?{rest}") }
}

fn cookie_name(port: u16) -> String {
    format!("lunasa_{port}")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookies<'a>(headers: &'a HeaderMap, wanted: &'a str) -> impl Iterator<Item = &'a str> {
    let each = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    each.flat_map(|line| line.split(';'))
        .filter_map(move |pair| pair.split_once('=').filter(|(name, _)| name.trim() == wanted))
        .map(|(_, value)| value.trim())
}

/// The names by which this endpoint may be called.
#[derive(Debug)]
pub(super) struct HostNames {
    address: SocketAddr,
    names: Vec<String>,
}

impl HostNames {
    /// Those of an endpoint that listens on `address`: `localhost` and what this host calls itself.
    pub(super) fn of(address: SocketAddr) -> Self {
        let mut names = vec!["localhost".to_string()];
        if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
            let name = name.trim().to_ascii_lowercase();
            names.extend(name.split_once('.').map(|(short, _)| short.to_string()));
            names.push(name);
        }
        names.retain(|name| !name.is_empty());
        Self { address, names }
    }

    /// Whether a request that came in on the address `reached` calls this endpoint by one of its names, with its port.
    pub(super) fn allow(&self, uri: &Uri, headers: &HeaderMap, reached: IpAddr) -> bool {
        let mut hosts = headers.get_all(HOST).into_iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let host = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
        host.is_some_and(|host| self.names_us(&host, reached))
            && uri.authority().is_none_or(|authority| self.names_us(authority, reached))
    }

    /// Whether a request was caused by a page of this endpoint, or by no page at all: browsers say in `Origin` whose script
    /// or form it was.
    pub(super) fn allow_origin(&self, headers: &HeaderMap, reached: IpAddr) -> bool {
        headers.get_all(ORIGIN).into_iter().all(|origin| {
            let origin = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
            origin.is_some_and(|origin| {
                origin.scheme_str() == Some("http")
                    && origin.authority().is_some_and(|authority| self.names_us(authority, reached))
            })
        })
    }

    fn names_us(&self, authority: &Authority, reached: IpAddr) -> bool {
        let port = match authority.port() {
            Some(port) => port.as_str().parse().ok(),
            None => Some(80),
        };
        if port != Some(self.address.port()) || authority.as_str().contains('@') {
            return false;
        }
        let name = authority.host();
        match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            // Loopback: a forwarded port ends here too, and no name can be pointed at a literal address.
            Ok(ip) => ip == reached.to_canonical() || ip == reached || ip == self.address.ip() || ip.is_loopback(),
            Err(_) => self.names.iter().any(|ours| ours.eq_ignore_ascii_case(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_token_is_not_printed() {
        let token = new_token();
        assert!(!format!("{:?}", Access::Token(token.clone())).contains(&token));
    }

    #[test]
    fn tokens_are_128_bits_of_hexadecimal_and_differ() {
        let (a, b) = (new_token(), new_token());
        assert_eq!(a.len(), 32);
        assert!(a.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_refused_without_printing_it() {
        for bad in ["", "with space", "semi;colon", "new\nline", "ü"] {
            let error = Access::Token(bad.into()).check().unwrap_err().to_string();
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
        assert!(Access::Token("fine-._~09".into()).check().is_ok());
    }

    #[test]
    fn the_redirect_stays_on_this_endpoint_and_keeps_other_arguments() {
        for (from, to) in [
            ("/lunasa?token=x&format=json", "/lunasa?format=json"),
            ("/hooks/a?x=1%262&%74oken=x&y=%3Cb%3E", "/hooks/a?x=1%262&y=%3Cb%3E"),
            ("/?token=x", "/"),
            ("//elsewhere.example/?token=x", "/elsewhere.example/"),
        ] {
            assert_eq!(without_token(&from.parse().unwrap()), to);
        }
    }

    #[test]
    fn only_the_names_of_this_endpoint_with_its_port_are_allowed() {
        let names =
            HostNames { address: "10.1.2.3:1990".parse().unwrap(), names: vec!["localhost".into(), "n7".into()] };
        let allow = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_str(host).unwrap());
            names.allow(&"/".parse().unwrap(), &headers, "10.1.2.3".parse().unwrap())
        };
        for good in ["10.1.2.3:1990", "localhost:1990", "LocalHost:1990", "n7:1990", "127.0.0.1:1990", "[::1]:1990"] {
            assert!(allow(good), "{good}");
        }
        let bad =
            ["evil.example:1990", "10.1.2.3", "10.1.2.3:1991", "10.1.2.4:1990", "n7.evil.example:1990", "x@n7:1990"];
        for bad in bad.into_iter().chain(["", "localhost", "localhost.:1990", "[::1:1990", "n7:01990x"]) {
            assert!(!allow(bad), "{bad}");
        }
    }

    #[test]
    fn only_pages_of_this_endpoint_may_cause_requests() {
        let names = HostNames::of("127.0.0.1:1990".parse().unwrap());
        let allow = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
            names.allow_origin(&headers, "127.0.0.1".parse().unwrap())
        };
        assert!(allow("http://127.0.0.1:1990") && allow("http://localhost:1990"));
        for bad in
            ["null", "http://evil.example", "http://127.0.0.1:1991", "https://127.0.0.1:1990", "", "127.0.0.1:1990"]
        {
            assert!(!allow(bad), "{bad}");
        }
        assert!(names.allow_origin(&HeaderMap::new(), "127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_second_host_header_or_a_foreign_absolute_url_is_refused() {
        let names = HostNames::of("127.0.0.1:1990".parse().unwrap());
        let mut headers = HeaderMap::new();
        headers.append(HOST, HeaderValue::from_static("127.0.0.1:1990"));
        let reached = "127.0.0.1".parse().unwrap();
        assert!(names.allow(&"/".parse().unwrap(), &headers, reached));
        assert!(!names.allow(&"http://evil.example/".parse().unwrap(), &headers, reached));
        headers.append(HOST, HeaderValue::from_static("evil.example"));
        assert!(!names.allow(&"/".parse().unwrap(), &headers, reached));
        assert!(!names.allow(&"/".parse().unwrap(), &HeaderMap::new(), reached));
    }
}
