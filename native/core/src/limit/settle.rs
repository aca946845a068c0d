//! Settles limits: a consumer of ended exchanges that turns what each had reserved into what it used.

use crate::entry::{Charge, Consumer, Entry};

/// The settlement of reservations.
#[derive(Clone, Copy, Debug)]
pub struct Settlement;

impl Consumer for Settlement {
    fn enter(&mut self, entry: &Entry<'_>, charge: &Charge) -> usize {
        if let Some(reservation) = entry.reservation {
            reservation.settle(charge.tokens(), charge.micros(), entry.ended_ns);
        }
        0
    }
}
