//! The `grpc-timeout` header: how long the caller waits, in up to eight digits and a unit.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

const NAME: HeaderName = HeaderName::from_static("grpc-timeout");

/// Units and their nanoseconds.
const UNITS: [(char, u128); 6] = [
    ('n', 1),
    ('u', 1_000),
    ('m', 1_000_000),
    ('S', 1_000_000_000),
    ('M', 60_000_000_000),
    ('H', 3_600_000_000_000),
];

const MOST: u128 = 99_999_999;

/// What the headers say; `None` for nothing, and for what cannot be read, as tonic has it.
pub(crate) fn read(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(NAME)?.to_str().ok()?;
    let (unit, nanos) = UNITS.into_iter().find(|(unit, _)| value.ends_with(*unit))?;
    let number =
        value.strip_suffix(unit).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    let number = number.parse::<u128>().ok().filter(|number| *number <= MOST)?;
    Some(Duration::from_nanos(u64::try_from(nanos * number).unwrap_or(u64::MAX)))
}

/// Says `timeout` in the most exact unit it fits in. Rounds up, so that the caller's own clock is the first to end the call.
pub(crate) fn write(headers: &mut HeaderMap, timeout: Duration) {
    let fitting = UNITS.into_iter().map(|(unit, nanos)| (timeout.as_nanos().div_ceil(nanos), unit));
    let (number, unit) = fitting.into_iter().find(|(number, _)| *number <= MOST).unwrap_or((MOST, 'H'));
    if let Ok(value) = HeaderValue::try_from(format!("{number}{unit}")) {
        headers.insert(NAME, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_what_tonic_writes() {
        for (millis, expected) in [(0, "0n"), (1, "1000000n"), (300, "300000u"), (3_600_000, "3600000m")] {
            let timeout = Duration::from_millis(millis);
            let mut headers = HeaderMap::new();
            write(&mut headers, timeout);
            assert_eq!(headers[NAME], expected);
            assert_eq!(read(&headers), Some(timeout));
            let mut request = tonic::Request::new(());
            request.set_timeout(timeout);
            assert_eq!(read(&request.into_parts().0.into_headers()), Some(timeout));
        }
        let mut headers = HeaderMap::new();
        for timeout in [Duration::MAX, Duration::from_secs(400_000 * 3600) + Duration::from_nanos(1)] {
            write(&mut headers, timeout);
            assert!(
                read(&headers).is_some_and(|read| read >= timeout.min(Duration::from_secs(1_000_000_000)))
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_timeout() {
        for value in ["", "n", "5", "+5n", "-5n", "5x", "123456789n", "5 m", "é"] {
            let mut headers = HeaderMap::new();
            headers.insert(NAME, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            assert_eq!(read(&headers), None, "{value}");
        }
        assert_eq!(read(&HeaderMap::new()), None);
    }
}
