//! Server-sent events (HTML Standard §9.2): `GET /stream?events=10&every=1000&delay=0`.

use dunlin_sdk::{Error, HeaderValue, Request, Response, header, info, task};
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[dunlin_sdk::http]
async fn handle(request: Request) -> Result<Response, Error> {
    let events = number(&request, "events", 10)?;
    let every = Duration::from_millis(number(&request, "every", 1000)?);
    task::sleep(Duration::from_millis(number(&request, "delay", 0)?)).await;
    info!("sending {events} events, one every {every:?}");
    let response = Response::stream(move |body| {
        for event in 1..=events {
            if event > 1 {
                std::thread::sleep(every);
            }
            let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            write!(body, "id: {event}\ndata: {seconds}\n\n")?;
            body.flush()?;
        }
        Ok(())
    });
    Ok(response
        .with_header(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))
        .with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
}

fn number(request: &Request, name: &str, default: u64) -> Result<u64, Error> {
    request.query_param(name).map_or(Ok(default), |text| text.parse().map_err(Error::bad_request))
}
