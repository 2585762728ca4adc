//! Unix seconds as a date in UTC.

/// A moment in the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The year; it may be negative.
    pub year: i64,
    /// From 1.
    pub month: i64,
    /// From 1.
    pub day: i64,
    /// From 0.
    pub hour: i64,
    /// From 0.
    pub minute: i64,
    /// From 0.
    pub second: i64,
    /// From 0, which is Sunday.
    pub weekday: i64,
}

impl Moment {
    /// The moment of a number of seconds since 1970.
    pub fn of(unix_seconds: i64) -> Self {
        let (days, second) = (unix_seconds.div_euclid(86400), unix_seconds.rem_euclid(86400));
        // 1 January 1970 was a Thursday.
        let weekday = (days.rem_euclid(7) + 4) % 7;
        // Howard Hinnant's civil_from_days: eras of 400 years that start on 1 March.
        let days = days + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        Self { year, month, day, hour, minute, second, weekday }
    }
}
