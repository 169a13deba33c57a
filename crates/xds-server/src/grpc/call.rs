//! Checks the head of a gRPC call, whichever service it is for ("gRPC over HTTP2", Requests), and reads
//! its deadline. Errors are the ones that grpc-go gives.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use tonic::Status;

/// Why a request is not a valid gRPC call.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Not gRPC; the client will not look for a gRPC status.
    NotGrpc(StatusCode),
    Grpc(StatusCode, Status),
}

/// Checks the head; returns the client's deadline, if it has one.
pub(crate) fn check_call(request: &Request<()>) -> Result<Option<Duration>, CallError> {
    let content_type = request.headers().get(CONTENT_TYPE);
    let grpc = content_type.is_some_and(|it| is_grpc(it.as_bytes()));
    if request.method() != Method::POST {
        let refused = StatusCode::METHOD_NOT_ALLOWED;
        return Err(match grpc {
            true => CallError::Grpc(refused, Status::internal("a gRPC call is a POST request")),
            false => CallError::NotGrpc(refused),
        });
    }
    if !grpc {
        return Err(CallError::NotGrpc(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let Some(value) = request.headers().get("grpc-timeout") else { return Ok(None) };
    timeout(value).map(Some).ok_or_else(|| {
        let text = "malformed grpc-timeout: it is one to eight digits and one of H, M, S, m, u, n";
        CallError::Grpc(StatusCode::BAD_REQUEST, Status::internal(text))
    })
}

/// `application/grpc`, which message format and parameters may follow.
fn is_grpc(content_type: &[u8]) -> bool {
    let name = b"application/grpc";
    content_type.split_at_checked(name.len()).is_some_and(|(begun, rest)| {
        begun.eq_ignore_ascii_case(name) && matches!(rest, [] | [b'+' | b';', ..])
    })
}

fn timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: &str, headers: &[(&str, &str)]) -> Result<Option<Duration>, (u16, bool)> {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check_call(&request.body(()).unwrap()).map_err(|error| match error {
            CallError::NotGrpc(status) => (status.as_u16(), false),
            CallError::Grpc(status, _) => (status.as_u16(), true),
        })
    }

    #[test]
    fn a_call_is_a_post_of_a_grpc_content_type() {
        for grpc in ["application/grpc", "application/grpc+proto", "Application/gRPC; a=b"] {
            assert_eq!(checked("POST", &[("content-type", grpc)]), Ok(None), "{grpc}");
            assert_eq!(checked("PUT", &[("content-type", grpc)]), Err((405, true)), "{grpc}");
        }
        for other in ["application/json", "application/grpc-web", "application/grp", ""] {
            assert_eq!(checked("POST", &[("content-type", other)]), Err((415, false)), "{other}");
        }
        assert_eq!(checked("POST", &[]), Err((415, false)));
        assert_eq!(checked("GET", &[]), Err((405, false)));
        assert_eq!(checked("CONNECT", &[]), Err((405, false)));
    }

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let of = |value| {
            checked("POST", &[("content-type", "application/grpc"), ("grpc-timeout", value)])
        };
        for (value, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0S", Duration::ZERO),
            ("00000001S", Duration::from_secs(1)),
            ("99999999H", Duration::from_secs(359_999_996_400)),
        ] {
            assert_eq!(of(value), Ok(Some(expected)), "{value}");
        }
        for value in
            ["", "S", "1", "1s", "1 S", "-1S", "+1S", "1.5S", "100000000S", "1SS", "infinite"]
        {
            assert_eq!(of(value), Err((400, true)), "{value}");
        }
    }
}
