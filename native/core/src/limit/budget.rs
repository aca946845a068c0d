//! Budgets: a key's spending limit per calendar period (UTC), in micro-dollars.
//!
//! A cell holds the day on which its period ends, the spending in it, and the kind of period. A number from an earlier
//! period counts as nothing, so nothing has to be reset. A period that ends later than it could is from a time before
//! the clock was set back, and counts until its end. A key has one cell, whatever the period. When all cells of a set
//! belong to keys with running periods, the one with the lowest spending is evicted: more is admitted, never less.
//!
//! ```text
//! kind + 1 (2 bits; 0: not known) | end in days (18 bits) | micro-dollars (44 bits)
//! ```

use std::sync::atomic::Ordering;

use super::LimitError;
use crate::segment::layout::CellSet;
use crate::segment::{BUDGET_SETS, Segment};

const SPENT_BITS: u32 = 44;
const SPENT: u64 = (1 << SPENT_BITS) - 1;
const END_BITS: u32 = 18;
const END: u64 = (1 << END_BITS) - 1;
/// 17 million dollars, at which sums saturate.
const MAX_BUDGET: u64 = SPENT;

/// The length of a budget period; each begins at midnight UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// A day.
    Day,
    /// Monday to Sunday.
    Week,
    /// A calendar month.
    Month,
}

impl std::str::FromStr for Period {
    type Err = LimitError;

    fn from_str(name: &str) -> Result<Self, LimitError> {
        Ok(match name {
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Month,
            _ => return Err(LimitError::Period(name.to_owned())),
        })
    }
}

impl Period {
    /// The first day after the period of `today`. Days are counted from 1970-01-01.
    #[must_use]
    pub fn end(self, today: u32) -> u32 {
        match self {
            Self::Day => today + 1,
            // Day 0 was a Thursday, day 4 a Monday.
            Self::Week => today + 7 - (today + 3) % 7,
            Self::Month => first_of_next_month(today),
        }
    }

    /// Maximum length in days.
    fn longest(self) -> u32 {
        match self {
            Self::Day => 1,
            Self::Week => 7,
            Self::Month => 31,
        }
    }
}

/// The first day of the next month, by Howard Hinnant's `civil_from_days` and back, for days after 1970.
fn first_of_next_month(today: u32) -> u32 {
    let days = today + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Months counted from March: 0 to 11.
    let month = (5 * of_year + 2) / 153;
    let (year, next) = if month == 11 {
        (year_of_era + 1, 0)
    } else {
        (year_of_era, month + 1)
    };
    let first = (153 * next + 2) / 5;
    era * 146_097 + year * 365 + year / 4 - year / 100 + year / 400 + first - 719_468
}

impl Segment {
    /// The day that budgets use, counted from 1970; 0 while nothing sets it.
    #[must_use]
    pub fn today(&self) -> u32 {
        self.layout().today.load(Ordering::Relaxed) as u32
    }

    /// Sets the day for all processes.
    pub fn set_today(&self, today: u32) {
        self.layout().today.store(u64::from(today), Ordering::Relaxed);
    }
}

/// The spending limit of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    micros: u64,
    period: Period,
}

impl Budget {
    /// `micros` micro-dollars per period.
    pub fn new(micros: u64, period: Period) -> Result<Self, LimitError> {
        if (1..=MAX_BUDGET).contains(&micros) {
            Ok(Self { micros, period })
        } else {
            Err(LimitError::Budget(micros))
        }
    }

    /// The amount per period.
    #[must_use]
    pub fn micros(&self) -> u64 {
        self.micros
    }

    /// The period.
    #[must_use]
    pub fn period(&self) -> Period {
        self.period
    }

    /// Distinguishes this budget from others of the same name. The amount is left out, so that raising it keeps the
    /// spending.
    pub(super) fn identity(&self) -> [u8; 1] {
        [self.period as u8]
    }

    /// The cell after spending, if that fits. A budget that is used up refuses even a cost of 0.
    #[inline]
    pub(super) fn debited(&self, value: u64, micros: u64, today: u32) -> Option<u64> {
        let (end, spent) = self.now(value, today);
        let after = spent.saturating_add(micros);
        (spent < self.micros && after <= self.micros).then(|| pack(self.period, end, after))
    }

    /// The cell after unconditional spending in the period until `end`; a cell of another period stays unchanged.
    pub(super) fn forced(value: u64, micros: u64, end: u32) -> u64 {
        if end_of(value) == end {
            with_spent(value, (value & SPENT).saturating_add(micros))
        } else {
            value
        }
    }

    /// The cell after part of a debit in the period until `end` is given back; a cell of another period stays
    /// unchanged.
    pub(super) fn credited(value: u64, micros: u64, end: u32) -> u64 {
        if end_of(value) == end {
            with_spent(value, (value & SPENT).saturating_sub(micros))
        } else {
            value
        }
    }

    /// Micro-dollars left.
    pub(super) fn left(&self, value: u64, today: u32) -> u64 {
        self.micros.saturating_sub(self.now(value, today).1)
    }

    /// The day on which a cell's next period begins.
    pub(super) fn end(&self, value: u64, today: u32) -> u32 {
        self.now(value, today).0
    }

    /// The end of the current period, and the spending in it.
    fn now(&self, value: u64, today: u32) -> (u32, u64) {
        let end = self.period.end(today);
        let cells = end_of(value);
        if cells < end { (end, 0) } else { (cells, value & SPENT) }
    }

    /// The need of a key for its cell: none after its period, otherwise its spending.
    pub(super) fn need(today: u32) -> impl Fn(u64) -> u64 {
        move |value| if is_over(value, today) { 0 } else { value & SPENT }
    }
}

/// True when a cell's period is over.
pub(super) fn is_over(value: u64, today: u32) -> bool {
    end_of(value) <= today
}

/// Moves every budget that runs on day `from` to the period of day `to`, with its spending: the clock was set, and no
/// time has passed. A budget that already ends within one period of that stays unchanged, and so does one of an unknown
/// kind.
pub fn carry(segment: &Segment, from: u32, to: u32) {
    for set in &segment.layout().budget_sets {
        for (hash, _) in set.entries() {
            set.adjust(hash, |value| carried(value, from, to));
        }
    }
}

fn carried(value: u64, from: u32, to: u32) -> Option<u64> {
    let period = period_of(value)?;
    let end = period.end(to);
    let ends = end_of(value);
    let stays = (end..=end + period.longest()).contains(&ends);
    (ends > from && !stays).then(|| value & !(END << SPENT_BITS) | (u64::from(end) & END) << SPENT_BITS)
}

/// A cell's spending in its period.
pub(super) fn spent(value: u64) -> u64 {
    value & SPENT
}

/// The spending in the cell `before`, if that is of the same period as `value`.
pub(super) fn spent_before(before: u64, value: u64) -> u64 {
    if before >> SPENT_BITS == value >> SPENT_BITS {
        spent(before)
    } else {
        0
    }
}

/// The cell after adding the spending in `amount`, in its period; a cell of a later period stays unchanged.
pub(super) fn joined(value: u64, amount: u64) -> u64 {
    if value >> SPENT_BITS > amount >> SPENT_BITS {
        value
    } else {
        with_spent(amount, spent_before(value, amount).saturating_add(spent(amount)))
    }
}

/// The cell after giving back the spending in `amount`; a cell of another period stays unchanged.
pub(super) fn less(value: u64, amount: u64) -> u64 {
    if value >> SPENT_BITS == amount >> SPENT_BITS {
        with_spent(value, spent(value).saturating_sub(spent(amount)))
    } else {
        value
    }
}

/// The set of a key's cell.
#[inline]
pub(super) fn cells_of(segment: &Segment, hash: u64) -> &CellSet {
    &segment.layout().budget_sets[(hash >> 32) as usize % BUDGET_SETS]
}

fn pack(period: Period, end: u32, spent: u64) -> u64 {
    let kind = period as u64 + 1;
    with_spent(
        kind << (SPENT_BITS + END_BITS) | (u64::from(end) & END) << SPENT_BITS,
        spent,
    )
}

/// The same period with another sum.
pub(super) fn with_spent(value: u64, spent: u64) -> u64 {
    value & !SPENT | spent.min(SPENT - 1)
}

fn end_of(value: u64) -> u32 {
    (value >> SPENT_BITS & END) as u32
}

fn period_of(value: u64) -> Option<Period> {
    match value >> (SPENT_BITS + END_BITS) {
        1 => Some(Period::Day),
        2 => Some(Period::Week),
        3 => Some(Period::Month),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // 2026-11-23, a Monday.
    const TODAY: u32 = 20_780;

    #[test]
    fn periods_end_at_midnight_sunday_and_the_months_last() {
        assert_eq!(Period::Day.end(TODAY), TODAY + 1);
        assert_eq!(Period::Week.end(TODAY), TODAY + 7);
        assert_eq!(Period::Week.end(TODAY + 6), TODAY + 7);
        assert_eq!(Period::Month.end(TODAY), TODAY + 8);
        assert_eq!(Period::Month.end(TODAY + 8), TODAY + 8 + 31);
        // Checks every month from 1970 to 2100 by counting.
        let mut first = 0;
        for year in 1970..2101_u32 {
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let february = if leap { 29 } else { 28 };
            for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
                for day in [0, 1, length - 1] {
                    assert_eq!(Period::Month.end(first + day), first + length, "{year}");
                }
                first += length;
            }
        }
    }

    #[test]
    fn a_period_begins_with_nothing_spent() {
        let budget = Budget::new(100, Period::Day).unwrap();
        let value = budget.debited(0, 60, TODAY).unwrap();
        assert_eq!(budget.left(value, TODAY), 40);
        assert_eq!(budget.debited(value, 41, TODAY), None);
        assert_eq!(
            budget.left(budget.debited(value, 41, TODAY + 1).unwrap(), TODAY + 1),
            59
        );
        // A later refund does not belong to that period.
        let next = budget.debited(value, 10, TODAY + 1).unwrap();
        assert_eq!(Budget::credited(next, 10, TODAY + 1), next);
        assert_eq!(budget.left(Budget::credited(next, 10, TODAY + 2), TODAY + 1), 100);
    }

    #[test]
    fn what_is_used_up_refuses_what_is_free() {
        let budget = Budget::new(100, Period::Week).unwrap();
        assert!(budget.debited(0, 0, TODAY).is_some());
        let value = budget.debited(0, 100, TODAY).unwrap();
        assert_eq!(budget.debited(value, 0, TODAY), None);
        let over = Budget::forced(value, u64::MAX, TODAY + 7);
        assert_eq!(Budget::forced(value, 5, TODAY + 14), value);
        assert_eq!(
            (
                budget.left(over, TODAY),
                is_over(over, TODAY + 6),
                is_over(over, TODAY + 7)
            ),
            (0, false, true)
        );
    }

    #[test]
    fn a_clock_that_is_set_back_begins_no_period_anew() {
        for period in [Period::Day, Period::Week, Period::Month] {
            let budget = Budget::new(100, period).unwrap();
            let value = budget.debited(0, 90, TODAY).unwrap();
            for back in [1, 7, 31, 400, TODAY] {
                assert_eq!(budget.left(value, TODAY - back), 10, "{back}");
                // Spending in the meantime counts against the same budget.
                let later = budget.debited(value, 5, TODAY - back).unwrap();
                assert_eq!(
                    (budget.left(later, TODAY), budget.end(later, TODAY)),
                    (5, period.end(TODAY))
                );
            }
        }
    }

    #[test]
    fn what_is_carried_runs_as_long_as_it_would_on_the_other_day() {
        for period in [Period::Day, Period::Week, Period::Month] {
            let budget = Budget::new(100, period).unwrap();
            let value = budget.debited(0, 90, TODAY).unwrap();
            for to in [TODAY - 20_000, TODAY - 400, TODAY + 32, TODAY + 400, TODAY + 20_000] {
                let there = carried(value, TODAY, to).unwrap_or(value);
                assert_eq!(
                    (budget.left(there, to), budget.end(there, to)),
                    (10, period.end(to)),
                    "{to}"
                );
                let again = carried(there, to, TODAY).unwrap_or(there);
                assert_eq!(budget.left(again, TODAY), 10, "{to}");
                assert!(budget.end(again, TODAY) <= period.end(TODAY) + period.longest(), "{to}");
            }
            // A period that was over before stays over.
            let over = budget.debited(0, 90, TODAY - 40).unwrap();
            assert_eq!(carried(over, TODAY, TODAY + 5), None);
            // A step back by less than a period leaves the end where it is.
            assert_eq!(carried(value, TODAY, TODAY - 1), None);
        }
        assert_eq!(carried(7, 0, TODAY), None);
    }

    #[test]
    fn budgets_that_no_cell_holds_are_refused() {
        assert!(Budget::new(0, Period::Day).is_err());
        assert!(Budget::new(1 << 44, Period::Day).is_err());
        assert!("year".parse::<Period>().is_err());
    }
}
