//! The server: HTTP/1.1, one request a connection. So many connections at once, so long each, and no more.

use std::{convert::Infallible, net::TcpListener, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, VARY},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::Board;
use crate::view::metrics::Format;

/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may take from its beginning to its end: Prometheus gives up after 10 s, unless it is told
/// otherwise.
const WHOLE: Duration = Duration::from_secs(30);
/// Bytes that a request's head may have, and that are read ahead.
const HEAD_BYTES: usize = 16 << 10;
/// Before another try, when no connection can be accepted: the process has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers for ever.
pub(super) fn run(listener: TcpListener, board: &Board) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the server of metrics cannot be started")?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)
            .context("the server of metrics cannot listen")?;
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let place = Arc::clone(&room).acquire_owned().await?;
            let Ok((stream, _from)) = listener.accept().await else {
                sleep(PAUSE).await;
                continue;
            };
            let board = board.clone();
            tokio::spawn(async move {
                // What goes wrong with a scraper is its own business.
                let _ended = timeout(WHOLE, serve(stream, &board)).await;
                drop(place);
            });
        }
    })
}

async fn serve(stream: TcpStream, board: &Board) -> hyper::Result<()> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| async move { Ok::<_, Infallible>(answer(&request, board)) }),
        )
        .await
}

/// The answer to a request. What stands in its body is not read.
fn answer(request: &Request<Incoming>, board: &Board) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "the metrics of netdiag are at /metrics\n");
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "metrics can only be read: GET\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    // A list may come in several lines (RFC 9110, section 5.3).
    let accept = request.headers().get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let format = Format::wanted(&accept.collect::<Vec<_>>().join(","));
    let mut response = Response::new(Full::new(board.page().body(format)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}
