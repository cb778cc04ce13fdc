//! Statuses: whose fault each of them is.

use super::fault::{BOTH, Ends, Fault, limited, moves, moves_only};
use crate::harness::{Framing, Reply, sample};

/// A fault that an upstream tells by this status alone.
macro_rules! status {
    ($shapes:expr, $status:literal, $ends:expr) => {
        Fault::new(stringify!($status), $shapes, |_| Reply::error($status), $ends)
    };
}

pub(super) const MOVES_ON: &[Fault] = &[
    status!(BOTH, 500, moves("status_5xx", "status 500")),
    status!(BOTH, 501, moves("status_5xx", "status 501")).brief(),
    status!(BOTH, 502, moves("status_5xx", "status 502")).brief(),
    status!(BOTH, 504, moves("status_5xx", "status 504")).brief(),
    status!(BOTH, 520, moves("status_5xx", "status 520")).brief(),
    status!(BOTH, 524, moves("status_5xx", "status 524")).brief(),
    status!(BOTH, 529, moves("status_5xx", "status 529")).brief(),
    status!(BOTH, 408, moves("status_4xx", "status 408")),
    status!(BOTH, 409, moves("status_4xx", "status 409")).brief(),
    status!(BOTH, 425, moves("status_4xx", "status 425")).brief(),
    status!(BOTH, 498, moves("status_4xx", "status 498")).brief(),
    Fault::new(
        "302",
        BOTH,
        |_| Reply::error(302).header("location", "http://127.0.0.1:1/"),
        moves_only("error_body", "status 302"),
    ),
    Fault::new(
        "101",
        BOTH,
        |_| Reply::recorded("HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
        moves_only("error_body", "status 101"),
    )
    .http1_only(),
    Fault::new(
        "524 with HTML",
        BOTH,
        |_| Reply::head(524, "text/html", Framing::Chunked).piece("<html>524</html>").end(),
        moves("status_5xx", "status 524"),
    )
    .brief(),
    Fault::new(
        "503 whose body never comes",
        BOTH,
        |_| Reply::head(503, "application/json", Framing::Length(100)).piece("{").hang(),
        moves("status_5xx", "status 503"),
    ),
];

pub(super) const KEEPS_AWAY: &[Fault] = &[
    status!(
        BOTH,
        401,
        moves_only("status_4xx", "the credential was refused (status 401)").leaves("ejected")
    )
    .alone(),
    status!(
        BOTH,
        402,
        moves_only("status_4xx", "no credit is left (status 402)").leaves("ejected")
    )
    .brief()
    .alone(),
    status!(
        BOTH,
        403,
        moves_only("status_4xx", "the credential may not do this (status 403)").leaves("ejected")
    )
    .brief()
    .alone(),
    status!(BOTH, 429, limited("rate limited (status 429)", "1").leaves("resting")).brief().alone(),
    Fault::new(
        "429 for 40 s",
        BOTH,
        |_| Reply::error(429).header("retry-after", "40"),
        limited("rate limited (status 429)", "40").leaves("rate_limited"),
    )
    .alone(),
    Fault::new(
        "503 for 40 s",
        BOTH,
        |_| Reply::error(503).header("retry-after", "40"),
        moves_only("status_5xx", "status 503").leaves("resting"),
    )
    .brief()
    .alone(),
    Fault::new(
        "429 without quota",
        BOTH,
        |_| {
            Reply::json_text(429, "{\"error\":{\"message\":\"x\",\"code\":\"insufficient_quota\"}}")
        },
        // No waiting helps, so a long time is named.
        limited("no quota is left (status 429, insufficient_quota)", "3600").leaves("ejected"),
    )
    .brief()
    .alone(),
];

const fn own(status: u16) -> Ends {
    Ends::Passes { status, outcome: "status_4xx", finish: Some("error") }
}

pub(super) const CALLERS_OWN: &[Fault] = &[
    status!(BOTH, 400, own(400)),
    status!(BOTH, 404, own(404)).brief(),
    status!(BOTH, 413, own(413)).brief(),
    status!(BOTH, 418, own(418)).brief(),
    status!(BOTH, 422, own(422)).brief(),
    Fault::new("400 while the body is sent", BOTH, |_| Reply::error(400).early(), own(400)),
    Fault::new(
        "403 for what was written",
        BOTH,
        |_| {
            let error = "{\"error\":{\"message\":\"flagged\",\"code\":403,\
                         \"metadata\":{\"flagged_input\":\"x\"}}}";
            Reply::json_text(403, error)
        },
        own(403),
    ),
    Fault::new(
        "400 as recorded of OpenAI",
        BOTH,
        |_| {
            let recorded = String::from_utf8(sample("error_400_openai_unknown_arg.http")).unwrap();
            let (_, body) =
                recorded.split_once("\r\n\r\n").or(recorded.split_once("\n\n")).unwrap();
            Reply::json_text(400, body)
        },
        own(400),
    ),
];
