//! Asking an endpoint: one request on one connection.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `host:port`, as it is called by.
    Port(String),
    /// A socket in the file system.
    Socket(PathBuf),
}

impl Place {
    /// The place in a URL (`http://HOST:PORT/`, `HOST:PORT` or `unix:PATH`), and the token, if one is in it.
    pub fn of_url(url: &str) -> Result<(Self, Option<String>), String> {
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok((Self::Socket(path.into()), None));
        }
        let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let wrong = || format!("{url:?} is no URL of an endpoint; it must be http://HOST:PORT/ or unix:PATH");
        let uri: Uri = whole.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong());
        }
        // What stands behind the host is a port, or wrong; the parser takes other things too.
        let port: u16 = match authority.as_str().strip_prefix(authority.host()).ok_or_else(wrong)? {
            "" => 80,
            port => port.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or_else(wrong)?,
        };
        let host = format!("{}:{port}", authority.host());
        let arguments = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let token = arguments.into_owned().find_map(|(name, value)| (name == "token").then_some(value));
        Ok((Self::Port(host), token))
    }
}

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Ask<'a> {
    /// Path and arguments.
    pub target: &'a str,
    /// What is shown to be let in.
    pub secret: Option<&'a str>,
    /// What is posted, as a form; none is GET.
    pub form: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub body: Vec<u8>,
}

/// Asks once; why there is no answer otherwise. `limit`: bytes of an answer.
pub async fn ask(place: &Place, asked: Ask<'_>, patience: Duration, limit: usize) -> Result<Reply, String> {
    let answer = async {
        match place {
            Place::Port(host) => exchange(TcpStream::connect(host).await.map_err(words)?, host, asked, limit).await,
            Place::Socket(path) => {
                exchange(UnixStream::connect(path).await.map_err(words)?, "localhost", asked, limit).await
            }
        }
    };
    timeout(patience, answer).await.unwrap_or_else(|_| Err(format!("no answer within {} s", patience.as_secs_f64())))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    asked: Ask<'_>,
    limit: usize,
) -> Result<Reply, String> {
    let (mut sender, connection) = http1::handshake::<_, Body>(TokioIo::new(stream)).await.map_err(words)?;
    let method = if asked.form.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::builder().method(method).uri(asked.target).header(header::HOST, host);
    if let Some(secret) = asked.secret {
        request = request.header(header::AUTHORIZATION, format!("Bearer {secret}"));
    }
    if asked.form.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    let request = request.body(Body::from(asked.form.unwrap_or_default())).map_err(words)?;
    let reply = async {
        let response = sender.send_request(request).await.map_err(words)?;
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), limit).await.map_err(words)?;
        Ok(Reply { status, body: body.to_vec() })
    };
    // The connection is moved on by whoever waits for its answer, and ends with it.
    tokio::select! {
        reply = reply => reply,
        ended = connection => Err(ended.err().map_or_else(|| "it hung up".to_owned(), words)),
    }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_are_read_from_urls_with_and_without_a_token() {
        let port = |text: &str| Place::Port(text.to_owned());
        for (url, place, token) in [
            ("http://10.0.0.6:1990/", port("10.0.0.6:1990"), None),
            ("http://[::1]:7/lunasa?x=1&token=a%62c", port("[::1]:7"), Some("abc".to_owned())),
            ("n7:1990", port("n7:1990"), None),
            ("http://n7", port("n7:80"), None),
            ("unix:/run/a b.socket", Place::Socket("/run/a b.socket".into()), None),
        ] {
            assert_eq!(Place::of_url(url).unwrap(), (place, token), "{url}");
        }
        for other in ["", "javascript:alert(1)", "https://10.0.0.6:1990/", "http://u@n7:1990/", "http://", "a b"] {
            assert!(Place::of_url(other).is_err(), "{other}");
        }
    }
}
