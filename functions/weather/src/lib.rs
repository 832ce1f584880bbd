//! The temperature at a place, asked of another service: `GET /weather?latitude=52.5&longitude=13.4`.
//!
//! `WEATHER_URL` sets whom it asks; the manifest's `egress` must allow that address.

use std::time::Duration;

use dunlin_sdk::{Error, Request, Response, StatusCode, fetch};

const ANSWER_LIMIT_BYTES: usize = 64 * 1024;

#[derive(serde::Deserialize)]
struct Forecast {
    current: Current,
}

#[derive(serde::Deserialize)]
struct Current {
    temperature_2m: f64,
    wind_speed_10m: f64,
}

#[dunlin_sdk::http]
async fn handle(request: Request) -> Result<Response, Error> {
    let coordinate = |name: &str| -> Result<f64, Error> {
        let text = request.query_param(name).ok_or_else(|| Error::bad_request(format!("?{name}= is missing")))?;
        text.parse().map_err(Error::bad_request)
    };
    let (latitude, longitude) = (coordinate("latitude")?, coordinate("longitude")?);
    let base = std::env::var("WEATHER_URL").unwrap_or_else(|_| "https://api.open-meteo.com/v1/forecast".into());
    let url = format!("{base}?latitude={latitude}&longitude={longitude}&current=temperature_2m,wind_speed_10m");

    let answer = fetch::get(&url)?.timeout(Duration::from_secs(3)).await?;
    if !answer.status().is_success() {
        return Err(Error::new(StatusCode::BAD_GATEWAY, format!("{base} answered {}", answer.status())));
    }
    let Current { temperature_2m, wind_speed_10m } = answer.json::<Forecast>(ANSWER_LIMIT_BYTES)?.current;
    Ok(Response::text(format!("{temperature_2m} °C, wind {wind_speed_10m} km/h\n")))
}
