//! HTTP/2 with prior knowledge, by hyper's own client.

use super::*;
use http::{Request, StatusCode, Version};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};

/// A client on a connection of its own, which lives as long as the set.
async fn client(front: &Front) -> (SendRequest<Body>, JoinSet<()>) {
    let stream = TcpStream::connect(front.address).await.unwrap();
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut running = JoinSet::new();
    running.spawn(async {
        let _ = connection.await;
    });
    (client, running)
}

fn post(body: Body) -> Request<Body> {
    Request::post("http://a.example/x").body(body).unwrap()
}

/// Whether the client learns that the response is not whole.
async fn fails(response: hyper::Result<Response<hyper::body::Incoming>>) -> bool {
    match response {
        Ok(response) => response.into_body().collect().await.is_err(),
        Err(_) => true,
    }
}

#[tokio::test]
async fn requests_bodies_and_trailers_pass() {
    let front = Front::start(Config::default(), echo).await;
    let (mut client, _running) = client(&front).await;
    let trailers = [("x-sum", "1")].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let frames = futures::stream::iter([data("some"), Ok(Frame::trailers(trailers.into_iter().collect()))]);
    let response = client.send_request(post(Body::stream(http_body_util::StreamBody::new(frames)))).await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "1");
    let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    assert!(text.starts_with("POST http://a.example/x\n") && text.ends_with("some"), "{text}");
}

#[tokio::test]
async fn limits_hold_and_the_connection_lives_on() {
    let front = Front::start(Config::default(), count).await;
    let (mut client, _running) = client(&front).await;
    let over = client.send_request(post(Body::full(vec![0; LIMIT as usize + 1]))).await.unwrap();
    assert_eq!(over.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(!over.headers().contains_key("connection"));
    let at = client.send_request(post(Body::full(vec![0; LIMIT as usize]))).await.unwrap();
    assert_eq!(at.status(), StatusCode::OK);
    let mut many = Request::get("http://a.example/x");
    for n in 0..101 {
        many = many.header(format!("x-{n}"), "1");
    }
    let many = client.send_request(many.body(Body::Empty).unwrap()).await.unwrap();
    assert_eq!(many.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn a_body_that_fails_after_its_head_resets_the_stream() {
    let front = Front::start(Config::default(), |_| async {
        let frames = futures::stream::iter([data("begun"), Err("trap".into())]);
        Ok(Response::new(Body::stream(http_body_util::StreamBody::new(frames))))
    })
    .await;
    let (mut client, _running) = client(&front).await;
    assert!(fails(client.send_request(post(Body::Empty)).await).await);
}

#[tokio::test]
async fn a_stream_shorter_than_its_length_is_reset() {
    let front = Front::start(Config::default(), |_| async {
        let frames = futures::stream::iter([data("1234")]);
        let body = Body::stream(http_body_util::StreamBody::new(frames));
        Ok(Response::builder().header("content-length", "5").body(body).unwrap())
    })
    .await;
    let (mut client, _running) = client(&front).await;
    assert!(fails(client.send_request(post(Body::Empty)).await).await);
}

#[tokio::test]
async fn a_stop_says_goaway_and_finishes_what_is_in_flight() {
    let go = Arc::new(tokio::sync::Notify::new());
    let wait = go.clone();
    let mut front = Front::start(Config::default(), move |call| {
        let go = wait.clone();
        async move {
            go.notified().await;
            hello(call).await
        }
    })
    .await;
    let (mut client, _running) = client(&front).await;
    let answer = client.send_request(post(Body::Empty));
    let stop = async {
        while front.calls() == 0 {
            tokio::task::yield_now().await;
        }
        front.stop.cancel();
        go.notify_one();
    };
    let (answer, ()) = tokio::join!(answer, stop);
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
    front.ended().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let front = Front::start(Config { idle_timeout: SHORT, ..Config::default() }, hello).await;
    let (mut client, mut running) = client(&front).await;
    assert_eq!(client.send_request(post(Body::Empty)).await.unwrap().status(), StatusCode::OK);
    assert!(tokio::time::timeout(PATIENCE, running.join_next()).await.is_ok());
}
