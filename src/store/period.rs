//! When a budget starts again: calendar days and months in UTC, as numbers that only grow.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};
use time::{Date, Month, OffsetDateTime};

/// A calendar period in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// Midnight to midnight.
    Day,
    /// First to last of a month.
    Month,
    /// Never starts again.
    Total,
}

/// A day in UTC: days since 1970-01-01.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

const SECONDS_A_DAY: u64 = 86_400;

impl Day {
    /// The day of a moment; what lies before 1970 is the first one.
    #[must_use]
    pub fn of(at: SystemTime) -> Self {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_secs() / SECONDS_A_DAY).unwrap_or(i64::MAX))
    }

    /// Its first moment.
    #[must_use]
    pub fn begins(self) -> SystemTime {
        let days = u64::try_from(self.0).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(days.saturating_mul(SECONDS_A_DAY))
    }

    /// Its date, as long as the calendar reaches.
    #[must_use]
    pub fn date(self) -> Date {
        OffsetDateTime::from(self.begins()).date()
    }

    /// The day of a date.
    #[must_use]
    pub fn from_date(date: Date) -> Self {
        Self::of(date.midnight().assume_utc().into())
    }

    /// Months since the year 0.
    #[must_use]
    pub fn month(self) -> i64 {
        let date = self.date();
        i64::from(date.year()) * 12 + i64::from(u8::from(date.month())) - 1
    }
}

impl Period {
    /// The number of the period that holds this day; it grows from period to period.
    #[must_use]
    pub fn number(self, day: Day) -> i64 {
        match self {
            Self::Day => day.0,
            Self::Month => day.month(),
            Self::Total => 0,
        }
    }

    /// When the period that holds this day is over.
    #[must_use]
    pub fn ends(self, day: Day) -> Option<SystemTime> {
        match self {
            Self::Day => Some(Day(day.0 + 1).begins()),
            Self::Month => {
                let date = day.date();
                let next = date.month().next();
                let year = date.year() + i32::from(next == Month::January);
                let first = Date::from_calendar_date(year, next, 1).ok()?;
                Some(Day::from_date(first).begins())
            }
            Self::Total => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn days_and_months_end_at_midnight_in_utc() {
        let late = Day::of(datetime!(2026-12-31 23:59:59.9 UTC).into());
        let early = Day::of(datetime!(2027-01-01 00:00 UTC).into());
        assert_eq!(early.0, late.0 + 1);
        assert_eq!(Period::Day.ends(late), Some(early.begins()));
        assert_eq!(Period::Month.ends(late), Some(early.begins()));
        assert_eq!(Period::Month.number(early), Period::Month.number(late) + 1);
        assert_eq!(Period::Month.ends(early), Some(datetime!(2027-02-01 00:00 UTC).into()));
        assert_eq!(Period::Total.ends(early), None);
        assert_eq!(Day::from_date(early.date()), early);
    }

    #[test]
    fn before_1970_it_is_the_first_day() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(Day::of(before), Day(0));
        assert_eq!(Day(0).month(), 1970 * 12);
    }
}
