//! W3C Trace Context: the `traceparent` header (<https://www.w3.org/TR/trace-context/#traceparent-header>).

use http::HeaderValue;

/// A `traceparent` that was taken from the caller or made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Identifies the whole trace; never 0.
    pub trace_id: u128,
    /// Identifies the caller's span; never 0.
    pub parent_id: u64,
    /// Bit 0: the caller records this trace.
    pub flags: u8,
}

impl TraceContext {
    /// A new trace from two random numbers; zeros are replaced, because the standard reserves them.
    pub fn new(trace_id: u128, parent_id: u64) -> Self {
        Self { trace_id: trace_id.max(1), parent_id: parent_id.max(1), flags: 0 }
    }

    /// Reads a header's value; none if it is not a valid `traceparent`, which the standard says to ignore.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(header).ok()?;
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            (part.len() == digits && part.bytes().all(lower)).then(|| u128::from_str_radix(part, 16).ok())?
        };
        let (version, trace_id, parent_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        // Version 00 has exactly four parts; later ones may append more, ff is forbidden.
        let complete = version != 0 || parts.next().is_none();
        let valid = version != 0xff && trace_id != 0 && parent_id != 0 && complete;
        valid.then_some(Self { trace_id, parent_id: parent_id as u64, flags: flags as u8 })
    }

    /// The header's text, in version 00.
    pub fn encode(self) -> [u8; 55] {
        let mut text = *b"00-................................-................-..";
        hex(self.trace_id, &mut text[3..35]);
        hex(self.parent_id.into(), &mut text[36..52]);
        hex(self.flags.into(), &mut text[53..55]);
        text
    }

    /// The header's value, in version 00.
    pub fn to_header(self) -> HeaderValue {
        HeaderValue::from_bytes(&self.encode()).expect("hex digits and dashes are a valid header value")
    }
}

/// Fills `digits` with the low digits of `value`.
fn hex(mut value: u128, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_the_example_of_the_standard() {
        let example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed = TraceContext::parse(example.as_bytes()).unwrap();
        assert_eq!(parsed.to_header(), example);
    }

    #[test]
    fn refuses_what_the_standard_forbids() {
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let upper = "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01";
        let ff = "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let long = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x";
        for bad in ["", "00", &zero_trace, upper, ff, long] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
