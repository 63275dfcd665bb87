//! Requests to a collector, one after the other, over a connection that is kept as long as the collector keeps it.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{resolve, said::shown};
use crate::{
    cli::value::Collector,
    view::otlp::{self, Taken},
};

/// How long an interval may take from looking up the name to the end of the answer.
pub(super) const WHOLE: Duration = Duration::from_secs(10);
/// How long each of several addresses may take to be connected to.
const ADDRESS: Duration = Duration::from_secs(4);
/// Bytes of an answer; it says little.
const ANSWER: usize = 64 << 10;

type Link = SendRequest<Full<Bytes>>;

/// Why a collector has not got an interval.
#[derive(Debug)]
pub(super) enum Failure {
    /// Its name leads nowhere.
    Name(String),
    /// Nobody takes a connection there.
    Unreachable(SocketAddr, io::Error),
    /// It takes longer than anyone waits.
    Silent,
    /// The connection broke, or what came over it is no HTTP.
    Broken(hyper::Error),
    /// It refuses, and why in its own words.
    Refused(StatusCode, String),
    /// It takes the request, but what it answers is no OTLP.
    Strange(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(why) => write!(f, "its name is not known ({why})"),
            Self::Unreachable(address, error) => write!(f, "connecting to {address}: {error}"),
            Self::Silent => write!(f, "it does not answer within {} s", WHOLE.as_secs()),
            Self::Broken(error) => write!(f, "{error}"),
            Self::Refused(status, why) => write!(f, "it answers {status} and says {}", shown(why)),
            Self::Strange(why) => write!(f, "it answers with something else than OTLP ({why})"),
        }
    }
}

impl Failure {
    /// What to do about it.
    pub(super) const fn advice(&self) -> &'static str {
        match self {
            Self::Name(_) => {
                "give an address, or a name that /etc/hosts or the servers of /etc/resolv.conf know"
            }
            Self::Unreachable(..) => "see that its receiver for OTLP over HTTP listens there",
            Self::Silent | Self::Broken(_) => "see what it does, and what is between",
            Self::Refused(..) => "see its log",
            Self::Strange(_) => "see what listens there: it may be no collector",
        }
    }
}

/// Where to send, and a connection there.
#[derive(Debug)]
pub(super) struct Client {
    collector: Collector,
    target: Uri,
    host: HeaderValue,
    kept: Option<Link>,
}

impl Client {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// The URL is none that a request can have.
    pub(super) fn new(collector: &Collector) -> Result<Self> {
        let wrong = || format!("--otlp {collector} cannot be asked for; nothing was started");
        let target = collector.path.parse::<Uri>().with_context(wrong)?;
        let host = HeaderValue::from_str(&collector.authority()).with_context(wrong)?;
        Ok(Self { collector: collector.clone(), target, host, kept: None })
    }

    /// Sends the body of a request.
    ///
    /// # Errors
    /// It did not arrive, or was not taken.
    pub(super) async fn push(&mut self, body: Bytes) -> Result<Taken, Failure> {
        timeout(WHOLE, self.exchange(body)).await.unwrap_or(Err(Failure::Silent))
    }

    async fn exchange(&mut self, body: Bytes) -> Result<Taken, Failure> {
        let (link, response) = self.ask(body).await?;
        let status = response.status();
        let whole = Limited::new(response.into_body(), ANSWER).collect().await;
        let strange = |why: &dyn fmt::Display| Failure::Strange(why.to_string());
        if !status.is_success() {
            // What cannot be read is no reason to keep the status back.
            let body = whole.map(Collected::to_bytes).unwrap_or_default();
            return Err(Failure::Refused(status, otlp::refusal(&body)));
        }
        let body = whole.map_err(|error| strange(&error))?.to_bytes();
        let taken = otlp::taken(&body).map_err(|error| strange(&error))?;
        self.kept = Some(link);
        Ok(taken)
    }

    /// Asks over the connection that is there, else over a new one.
    async fn ask(&mut self, body: Bytes) -> Result<(Link, Response<Incoming>), Failure> {
        // A collector ends what is idle, and may do that just now. It takes the same sums twice.
        if let Some(mut link) = self.kept.take()
            && link.ready().await.is_ok()
            && let Ok(response) = link.send_request(self.request(body.clone())).await
        {
            return Ok((link, response));
        }
        let mut link = connect(&self.collector).await?;
        link.ready().await.map_err(Failure::Broken)?;
        let response = link.send_request(self.request(body)).await.map_err(Failure::Broken)?;
        Ok((link, response))
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        let agent = HeaderValue::from_static(concat!("netdiag/", env!("CARGO_PKG_VERSION")));
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(otlp::CONTENT_TYPE));
        headers.insert(USER_AGENT, agent);
        request
    }
}

/// Connects to the first of its addresses that takes it.
async fn connect(collector: &Collector) -> Result<Link, Failure> {
    let addresses = resolve::addresses(&collector.host).await.map_err(Failure::Name)?;
    let mut failure = Failure::Name("it has no address".to_owned());
    for address in addresses {
        match connect_to(address, collector.port).await {
            Ok(link) => return Ok(link),
            Err(one) => failure = one,
        }
    }
    Err(failure)
}

async fn connect_to(address: IpAddr, port: u16) -> Result<Link, Failure> {
    let address = SocketAddr::new(address, port);
    let unreachable = |error| Failure::Unreachable(address, error);
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let stream = timeout(ADDRESS, TcpStream::connect(address)).await.map_err(late);
    let stream = stream.flatten().map_err(unreachable)?;
    let (link, connection) = handshake(TokioIo::new(stream)).await.map_err(Failure::Broken)?;
    // It ends with the link, or with the other end. What goes wrong, the request tells.
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    Ok(link)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread::{self, JoinHandle},
    };

    use super::*;

    const TAKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    /// Takes connections one after the other. On each it answers so many requests, and closes; gives the requests, as
    /// text as far as they are.
    fn server(connections: Vec<Vec<Vec<u8>>>) -> (Client, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let collector = crate::cli::value::collector(&url).expect("a URL");
        let serve = move || {
            let mut requests = Vec::new();
            for answers in connections {
                let (mut stream, _) = listener.accept().expect("a connection");
                for answer in answers {
                    let mut request = vec![0; 4_096];
                    // It is small: it comes as a whole.
                    let n = stream.read(&mut request).expect("a request");
                    requests.push(String::from_utf8_lossy(&request[..n]).into_owned());
                    // It may have read enough.
                    let _closed = stream.write_all(&answer);
                }
            }
            requests
        };
        (Client::new(&collector).expect("a client"), thread::spawn(serve))
    }

    fn answer(status: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_one_that_was_closed_replaced() {
        let twice = || vec![TAKEN.into(), TAKEN.into()];
        let (mut client, served) = server(vec![twice(), twice()]);
        for nth in 0..4 {
            let taken = client.push(Bytes::from_static(b"body")).await;
            assert_eq!(taken.expect("it is taken"), Taken::default(), "{nth}");
        }
        let requests = served.join().expect("the server ends");
        assert_eq!(requests.len(), 4);
        for request in &requests {
            let request = request.to_ascii_lowercase();
            for part in [
                "post /v1/metrics http/1.1\r\n",
                "\r\nhost: 127.0.0.1:",
                "\r\ncontent-type: application/x-protobuf\r\n",
                "\r\ncontent-length: 4\r\n",
                "\r\n\r\nbody",
            ] {
                assert!(request.contains(part), "{request} lacks {part}");
            }
        }
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let partial = answer("200 OK", &[0x0a, 7, 0x08, 3, 0x12, 3, b'w', b'h', b'y']);
        let busy = answer("503 Service Unavailable", &[0x12, 4, b'b', b'u', b's', b'y']);
        let (mut client, served) = server(vec![
            vec![partial],
            vec![busy],
            vec![answer("404 Not Found", b"<html>")],
            vec![answer("200 OK", b"<html>It works!</html>")],
            vec![b"SSH-2.0-x\r\n".to_vec()],
            vec![answer("200 OK", &b"\0".repeat(ANSWER + 1))],
            vec![Vec::new()],
        ]);
        let taken = client.push(Bytes::new()).await.expect("a part is taken");
        assert_eq!(taken, Taken { rejected: 3, message: "why".to_owned() });
        for expected in [
            "it answers 503 Service Unavailable and says `busy`",
            "it answers 404 Not Found and says nothing of why",
            "something else than OTLP",
            "",
            "something else than OTLP",
            "",
        ] {
            let failure = client.push(Bytes::new()).await.expect_err(expected);
            assert!(failure.to_string().contains(expected), "{failure}: {expected}");
        }
        served.join().expect("the server ends");
        let failure = client.push(Bytes::new()).await.expect_err("nobody is there");
        assert!(matches!(failure, Failure::Unreachable(..)), "{failure}");
        assert!(failure.to_string().contains("refused"), "{failure}");
    }
}
